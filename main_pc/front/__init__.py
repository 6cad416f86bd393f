"""The HTTP front: OpenAI's and Ollama's interfaces over the models of all hosts. It owns nothing."""
