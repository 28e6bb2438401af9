"""The local server's side of the wire: routes, sockets, the OpenAPI document, faulty answers."""
