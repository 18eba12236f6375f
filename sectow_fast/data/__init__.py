"""Where requests come from: the sandbox, images, and the codec between words and token ids."""
