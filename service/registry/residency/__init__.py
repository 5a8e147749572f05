"""A limit for the memory of the service: models are loaded at their first request, and leave if they are not used."""
