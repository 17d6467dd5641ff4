"""Jobs: rendered, submitted and followed where people run them."""
