"""`resnet-bench serve`: the service under load, and in the same run the most that its engine and decoder could do.

`payloads` and `loads` say what is sent, `client` sends it, `server` is the service, `ceiling` what it is compared with,
`machine` what else ran meanwhile, `queueing` how long a queue has to take; `rounds` measures, `report` adds up.
"""
