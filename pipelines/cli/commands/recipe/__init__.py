"""Commands about a recipe itself: begin one, check it, draw it, and its schema for editors."""
