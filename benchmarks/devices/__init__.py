"""Every kind of file on every runtime."""
