"""The model server: one bundle behind V1, V2 and a simple REST form and V2 gRPC, every request checked first.

__main__.py     the command line: `python -m headway.serving.server --bundle DIR`
settings.py     ServerSettings, and the flags made from them
process.py      kserve's ModelServer with our listener, our gateway of requests, and a graceful end
model.py        the kserve Model: from loading to ready to draining
app.py          the ASGI application: routes, limits, one shape of errors
exchange.py     what the three REST forms say: bodies to rows, predictions to bodies
tensors.py      V2 tensors in JSON, in the binary extension and in gRPC
rows.py         the contract's check, and checked rows as the arrays a model takes
scoring.py      one model call, and what is told of it
batching.py     where and when a model call runs
metrics.py      Prometheus series
payload_log.py  requests and answers to Parquet, in the background
"""
