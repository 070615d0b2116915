"""The tiler: slide.scanned → bag.ready. Reads a slide's tiles and has them encoded."""
