"""What the local server does with a request: checks, jobs, charges, time."""
