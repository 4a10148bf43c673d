"""The multimodal policy: frozen towers, fusion, language model, prompts and sampling."""
