"""Filesystems of buckets and other remote places: how they are opened, and with which options."""
