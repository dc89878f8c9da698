"""Models as users hold them: bundles on disk, and the generation API."""
