"""The BFL API over HTTP: the client, what the service answers, webhooks, and the slots of an account."""
