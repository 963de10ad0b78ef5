"""Tests that drive pages in a headless Chromium; they are skipped where there is none."""
