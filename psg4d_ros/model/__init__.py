"""The 4D-LLM: sparse encoder, temporal aggregator, projector, language model, chain, mask decoder, relation head."""
