"""Workers: a service of several processes."""
