"""The multimodal policy: frozen encoders, fusion, language model, prompts and sampling."""
