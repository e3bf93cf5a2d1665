"""The HTTP ingress: what the external party, ServiceNow and monitoring call; a WSGI app and the server that bounds it."""
