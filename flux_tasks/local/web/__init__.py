"""The HTTP side of the local server: routes, sockets, the OpenAPI document, faulty answers."""
