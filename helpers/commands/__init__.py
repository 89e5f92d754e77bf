"""The command line, one module per lesson; ``helpers/__main__.py`` gathers them."""
