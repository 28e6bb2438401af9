"""One call of a tool: checked, submitted once, collected, stored."""
