"""What all processes and machines share that use one account on one store: its slots, and what may be spent."""
