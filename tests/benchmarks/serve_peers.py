"""The servers that `serve.py` measures against, each run by the interpreter of its own virtual environment.

    python tests/benchmarks/serve_peers.py SERVER MODEL PORT FOLDER

Each server is what its own documentation shows for a scikit-learn model, in one process, with nothing that it does by
default turned off. Each fits the model itself from the same rows, so that no file has to fit all their versions.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


def fitted(model: str, folder: Path) -> Any:
    """The benchmark's model: the same estimator on the same rows."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    rows = np.load(folder / "rows.npz")
    estimator = LogisticRegression() if model == "lr" else GradientBoostingClassifier(n_estimators=200, random_state=7)
    return estimator.fit(rows["x"], rows["y"])


def serve_kserve(model: str, port: int, folder: Path) -> None:
    """kserve's ModelServer as it comes; `predict` is that of its scikit-learn server."""
    sys.argv = sys.argv[:1]
    from kserve import InferRequest, InferResponse, Model, ModelServer
    from kserve.utils.utils import get_predict_response

    class SklearnModel(Model):  # type: ignore[misc]
        def load(self) -> bool:
            self.estimator = fitted(model, folder)
            self.ready = True
            return True

        def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
            return get_predict_response(payload, self.estimator.predict(payload.inputs[0].as_numpy()), self.name)

    served = SklearnModel("m")
    served.load()
    ModelServer(http_port=port, grpc_port=port + 1).start([served])


def serve_fastapi(model: str, port: int, folder: Path) -> None:
    """FastAPI and orjson, and not one check."""
    estimator = fitted(model, folder)
    _run_fastapi(lambda rows: estimator.predict(rows).tolist(), port)


def serve_fastapi_onnx(model: str, port: int, folder: Path) -> None:
    """The same over the ONNX graph that our own server uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / f"{model}-bundle" / "model.onnx", options)
    name = session.get_outputs()[-1].name

    def predict(rows: Any) -> list[Any]:
        found: list[Any] = (session.run([name], {"numbers": rows.astype(np.float32)})[0].argmax(axis=1) == 1).tolist()
        return found

    _run_fastapi(predict, port)


def _run_fastapi(predict: Any, port: int) -> None:
    import orjson
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    async def infer(request: Request) -> Response:
        tensor = orjson.loads(await request.body())["inputs"][0]
        labels = predict(np.array(tensor["data"], dtype=np.float64).reshape(tensor["shape"]))
        output = {"name": "predict", "shape": [len(labels)], "datatype": "BOOL", "data": labels}
        return Response(
            orjson.dumps({"model_name": "m", "id": "1", "outputs": [output]}), media_type="application/json"
        )

    app.add_api_route("/v2/models/m/infer", infer, methods=["POST"])
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


def serve_mlserver(model: str, port: int, folder: Path) -> None:
    """MLServer with its scikit-learn runtime; no worker processes, which makes it faster."""
    import joblib

    place = folder / f"mlserver-{model}"
    place.mkdir(exist_ok=True)
    joblib.dump(fitted(model, folder), place / "model.joblib")
    settings = {"name": "m", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./model.joblib"}}
    (place / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    common = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
    (place / "settings.json").write_text(json.dumps(ports | common))
    _become("mlserver", "start", str(place))


def serve_bentoml(model: str, port: int, folder: Path) -> None:
    """BentoML: one service, one worker, an API that takes V2's body."""
    place = folder / f"bentoml-{model}"
    place.mkdir(exist_ok=True)
    service = f"""
import sys
from pathlib import Path
import bentoml, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from serve_peers import fitted

@bentoml.service(workers=1)
class Service:
    def __init__(self):
        self.estimator = fitted({model!r}, Path({str(folder)!r}))

    @bentoml.api(route="/v2/models/m/infer")
    def infer(self, inputs: list) -> dict:
        tensor = inputs[0]
        labels = self.estimator.predict(np.array(tensor["data"]).reshape(tensor["shape"])).tolist()
        return {{"outputs": [{{"name": "predict", "shape": [len(labels)], "datatype": "BOOL", "data": labels}}]}}
"""
    (place / "service.py").write_text(service)
    os.chdir(place)
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    _become("bentoml", "serve", "service:Service", "--host", "127.0.0.1", "--port", str(port))


def serve_mlflow(model: str, port: int, folder: Path) -> None:
    """`mlflow models serve` with one worker, which takes a body of its own form."""
    import mlflow.sklearn

    place = folder / f"mlflow-{model}"
    if not place.exists():
        mlflow.sklearn.save_model(
            fitted(model, folder), str(place), pip_requirements=[], serialization_format="cloudpickle"
        )
    flags = ["--env-manager", "local", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    _become("mlflow", "models", "serve", "--model-uri", str(place), *flags)


def serve_unchecked(model: str, port: int, folder: Path) -> None:
    """Our own server without the contract's check: what the check costs is the difference."""
    from headway.serving.server import rows, settings
    from headway.serving.server.process import serve

    def record(self: Any, given: dict[str, Any]) -> Any:
        return rows.Rows(1, *self._row_arrays(given), given)

    def read(self: Any, values: Any, count: int) -> Any:
        return np.array(values, dtype=np.float64).reshape(count, -1)

    rows.Checker.record = record  # type: ignore[method-assign]
    rows._MatrixCheck.read = read  # type: ignore[method-assign]
    serve(settings.ServerSettings(bundle=folder / f"{model}-bundle", name="m", port=port))


def _become(command: str, *arguments: str) -> None:
    """Run a console script of this interpreter's environment in this process's place."""
    script = str(Path(sys.executable).parent / command)
    # Its own folder first: some of these servers start workers by name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.execv(script, [script, *arguments])


if __name__ == "__main__":
    _, server, model, port, folder = sys.argv
    globals()[f"serve_{server}"](model, int(port), Path(folder))
