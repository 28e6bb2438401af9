"""Recipes that run by themselves: served from a process, deployed to a pool, or started by new pictures."""
