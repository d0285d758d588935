"""Messages to prompt text and back, by llama.cpp's own template engine. Knows no tokens' fate and no HTTP."""
