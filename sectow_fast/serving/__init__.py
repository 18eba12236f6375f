"""Models that another process serves: an OpenAI-compatible client, and a server of our own."""
