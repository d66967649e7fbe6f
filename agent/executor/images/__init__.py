"""The node's image store: unpacked, content-addressed layers and the images made of them."""
