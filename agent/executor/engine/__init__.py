"""Tasks as containers of an engine: Podman or Docker, over the API that both speak."""
