"""The model server: one bundle behind the Open Inference Protocol, each request checked against the contract."""
