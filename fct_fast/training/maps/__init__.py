"""Closed-form maps between embedding spaces, as specs that the fused kernel runs."""
