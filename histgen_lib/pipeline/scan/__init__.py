"""From a slide to its bag."""
