"""Where transposes stand, and linear operators with what surrounds them."""
