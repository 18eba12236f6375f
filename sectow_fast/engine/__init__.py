"""Where tokens come from: one protocol, one engine a backend."""
