"""The graph hypernetwork: features, encoder, decoder, fit, archive, engines."""
