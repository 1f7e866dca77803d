"""What every Patchbay service uses: dialect codecs, settings, Redis state, worker runtime."""
