"""The gate refuses everything that the policy does not allow, before anything of the model runs."""

import json
import multiprocessing
import os
import pickle  # noqa: TID251 - what an attacker would write
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.components.bundle import write_manifest
from headway.components.errors import ConfigError, TrustError
from headway.components.settings import Settings
from headway.components.signing import Signer, make_key, public_key, sign_bundle, verify_signature
from headway.components.trust import Policy, check_bundle, load_bundle, load_policy

ROWS = pd.DataFrame({"distance": [100.0, 4900.0], "carrier": ["UA", "AA"]})
BundleMaker = Callable[..., Path]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "signing.pem"
    path.write_bytes(make_key())
    return path


@pytest.fixture(scope="module")
def policy(key: Path) -> Policy:
    return Policy(signers=[Signer(name="release", public_key=public_key(key).decode())])


@pytest.fixture(scope="module")
def signed(make_bundle: BundleMaker, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "bundle"
    shutil.copytree(make_bundle(), folder)
    sign_bundle(folder, key)
    return folder


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    """A signed bundle that the test may spoil."""
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


def seal(bundle: Path, key: Path) -> None:
    """What an attacker with the signing key could do: make manifest and signature fit the spoiled files."""
    write_manifest(bundle)
    sign_bundle(bundle, key)


def refusal(bundle: Path, policy: Policy, **options: object) -> str:
    with pytest.raises(TrustError) as caught:
        load_bundle(bundle, policy=policy, **options)  # type: ignore[arg-type]
    return str(caught.value)


class TestAGoodBundle:
    def test_it_opens_and_predicts(self, signed: Path, policy: Policy) -> None:
        model = load_bundle(signed, policy=policy)
        found = model.predict(ROWS)
        assert found.labels.tolist() == [False, True]
        assert (model.signer, model.format, model.info.name) == ("release", "onnx", "flights")
        assert json.loads(model.input_example)[0].keys() == {"distance", "carrier"}

    def test_both_formats_predict_the_same(self, signed: Path, policy: Policy) -> None:
        only_skops = policy.model_copy(update={"formats": ["skops"]})
        graph, pipeline = load_bundle(signed, policy=policy), load_bundle(signed, policy=only_skops)
        assert pipeline.format == "skops"
        first, second = graph.predict(ROWS).probabilities, pipeline.predict(ROWS).probabilities
        assert first is not None
        assert second is not None
        np.testing.assert_allclose(first, second, atol=1e-6)

    def test_nothing_is_left_behind(self, signed: Path, policy: Policy) -> None:
        with check_bundle(signed, policy=policy) as checked:
            private = checked.folder
            assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
        assert not private.exists()

    def test_a_change_after_the_check_changes_nothing(self, bundle: Path, policy: Policy) -> None:
        with check_bundle(bundle, policy=policy) as checked:
            (bundle / "contract.yaml").write_text("name: other")
            assert (checked.folder / "contract.yaml").read_text() != "name: other"

    def test_a_candidate_of_this_run_needs_no_signature(self, make_bundle: BundleMaker, policy: Policy) -> None:
        assert load_bundle(make_bundle(), policy=policy, require_signature=False).signer == ""

    def test_the_note_that_mlflow_leaves_is_ignored(self, bundle: Path, policy: Policy) -> None:
        (bundle / "registered_model_meta").write_text("model_name: flights\n")
        assert load_bundle(bundle, policy=policy).signer == "release"


class TestFiles:
    @pytest.mark.parametrize("name", ["model.onnx", "model.skops", "contract.yaml", "manifest.json", "bundle.json"])
    def test_one_changed_byte(self, bundle: Path, policy: Policy, name: str) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)
        message = refusal(bundle, policy)
        assert str(bundle) in message
        assert "was changed" in message or "manifest" in message or "not a" in message

    def test_a_missing_file(self, bundle: Path, policy: Policy) -> None:
        (bundle / "signature.json").unlink()
        assert "signature.json is missing" in refusal(bundle, policy)

    def test_a_file_too_many(self, bundle: Path, policy: Policy) -> None:
        (bundle / ".hidden").write_text("")
        assert ".hidden is not in the manifest" in refusal(bundle, policy)

    def test_a_link(self, bundle: Path, policy: Policy) -> None:
        (bundle / "contract.yaml").rename(bundle.parent / "contract.yaml")
        (bundle / "contract.yaml").symlink_to(bundle.parent / "contract.yaml")
        assert "contract.yaml is a link" in refusal(bundle, policy)

    def test_a_linked_folder(self, bundle: Path, policy: Policy) -> None:
        (bundle / "more").symlink_to("/etc", target_is_directory=True)
        assert "more is a link" in refusal(bundle, policy)

    def test_a_pipe_does_not_hang(self, bundle: Path, policy: Policy) -> None:
        os.mkfifo(bundle / "pipe")
        assert "pipe is not a plain file" in refusal(bundle, policy)

    def test_too_large(self, bundle: Path, policy: Policy) -> None:
        assert "too large" in refusal(bundle, policy.model_copy(update={"max_bytes": 1000}))

    def test_too_many(self, bundle: Path, policy: Policy) -> None:
        assert "more than 3 files" in refusal(bundle, policy.model_copy(update={"max_files": 3}))

    def test_no_folder(self, tmp_path: Path, policy: Policy) -> None:
        assert f"{tmp_path / 'no'}: no such folder" in refusal(tmp_path / "no", policy)

    def test_another_digest_than_the_registry_has(self, signed: Path, policy: Policy) -> None:
        assert f"Expected: {'0' * 16}…, as the registry has it" in refusal(signed, policy, digest="0" * 64)

    def test_documents_that_are_broken(self, bundle: Path, policy: Policy, key: Path) -> None:
        (bundle / "contract.yaml").write_text("name: [")
        seal(bundle, key)
        assert "contract.yaml, line 1" in refusal(bundle, policy)


class TestSignatures:
    def test_unsigned(self, bundle: Path, policy: Policy) -> None:
        (bundle / "bundle.sig").unlink()
        assert "not signed: no bundle.sig" in refusal(bundle, policy)

    def test_unknown_signer(self, bundle: Path, policy: Policy, tmp_path: Path) -> None:
        (tmp_path / "eve.pem").write_bytes(make_key())
        sign_bundle(bundle, tmp_path / "eve.pem")
        message = refusal(bundle, policy)
        assert "signed by an unknown key" in message
        assert "Expected: a signature by release" in message

    def test_no_signer_in_the_policy(self, signed: Path) -> None:
        assert "the policy names none" in refusal(signed, Policy())

    def test_signed_before_the_files_changed(self, bundle: Path, policy: Policy) -> None:
        contract = bundle / "contract.yaml"
        contract.write_text(contract.read_text() + "# more\n")
        write_manifest(bundle)
        assert "the signature by 'release' does not hold" in refusal(bundle, policy)

    def test_the_signature_of_another_bundle(
        self, bundle: Path, policy: Policy, key: Path, make_bundle: BundleMaker, tmp_path: Path
    ) -> None:
        other = Path(shutil.copytree(make_bundle(seed=1), tmp_path / "other"))
        shutil.copyfile(sign_bundle(other, key), bundle / "bundle.sig")
        assert "does not hold" in refusal(bundle, policy)

    def test_a_signature_that_only_names_the_key(self, bundle: Path, policy: Policy, tmp_path: Path) -> None:
        honest = json.loads((bundle / "bundle.sig").read_text())
        (tmp_path / "eve.pem").write_bytes(make_key())
        sign_bundle(bundle, tmp_path / "eve.pem")
        forged = json.loads((bundle / "bundle.sig").read_text())
        forged["verificationMaterial"] = honest["verificationMaterial"]
        (bundle / "bundle.sig").write_text(json.dumps(forged))
        assert "the signature is not by 'release', though it names that key" in refusal(bundle, policy)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_damaged_signature_is_refused_or_still_the_same(
        self, signed: Path, policy: Policy, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        folder = tmp_path_factory.mktemp("damaged")
        content = bytearray((signed / "bundle.sig").read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
        for file in signed.iterdir():
            os.link(file, folder / file.name)
        (folder / "bundle.sig").unlink()
        (folder / "bundle.sig").write_bytes(content)
        signers = [(signer.name, signer.public_key.encode()) for signer in policy.signers]
        try:
            assert verify_signature(folder, signers) == "release"
        except TrustError:
            return

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"verificationMaterial": {"publicKey": 1}}'])
    def test_a_file_that_is_no_signature(self, bundle: Path, policy: Policy, content: bytes) -> None:
        (bundle / "bundle.sig").write_bytes(content)
        assert "bundle.sig: not a signature" in refusal(bundle, policy)


class Exploit:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


class Foreign:
    """A type that nobody vouches for; leaves a trace when skops makes one."""

    trace: str

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["trace"]).mkdir()


class TestSkops:
    """The bundle has no ONNX file, so that the skops file would be opened."""

    @pytest.fixture
    def bundle(self, make_bundle: BundleMaker, tmp_path: Path, key: Path) -> Path:
        folder = Path(shutil.copytree(make_bundle(onnx="off"), tmp_path / "bundle"))
        sign_bundle(folder, key)
        return folder

    def test_the_good_one_opens(self, bundle: Path, policy: Policy) -> None:
        assert load_bundle(bundle, policy=policy).format == "skops"

    def test_a_pickle_under_its_name(self, bundle: Path, policy: Policy, key: Path, tmp_path: Path) -> None:
        (bundle / "model.skops").write_bytes(pickle.dumps(Exploit(tmp_path / "trace")))
        seal(bundle, key)
        assert "model.skops: not a skops file" in refusal(bundle, policy)
        assert not (tmp_path / "trace").exists()
        pickle.loads((bundle / "model.skops").read_bytes())
        assert (tmp_path / "trace").exists(), "the attack is harmless, so the test shows nothing"

    def test_a_pickle_beside_it(self, bundle: Path, policy: Policy, key: Path, tmp_path: Path) -> None:
        (bundle / "model.pkl").write_bytes(pickle.dumps(Exploit(tmp_path / "trace")))
        seal(bundle, key)
        assert "model.pkl would be unpickled by other loaders" in refusal(bundle, policy)

    def test_an_untrusted_type(self, bundle: Path, policy: Policy, key: Path, tmp_path: Path) -> None:
        import skops.io

        hostile = Foreign()
        hostile.trace = str(tmp_path / "trace")
        skops.io.dump(hostile, bundle / "model.skops")
        seal(bundle, key)
        message = refusal(bundle, policy)
        assert "holds the untrusted types" in message
        assert "Foreign" in message
        assert not (tmp_path / "trace").exists()
        skops.io.load(bundle / "model.skops", trusted=skops.io.get_untrusted_types(file=bundle / "model.skops"))
        assert (tmp_path / "trace").exists(), "the attack is harmless, so the test shows nothing"

    def test_a_function_that_runs_a_command(self, bundle: Path, policy: Policy, key: Path, tmp_path: Path) -> None:
        """The same archive with its root replaced by a call, as a crafted file would have it."""
        path = bundle / "model.skops"
        with zipfile.ZipFile(path) as archive:
            schema = json.loads(archive.read("schema.json"))
        attrs = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "__id__": 2}
        command = {**attrs, "content": json.dumps(f"mkdir {tmp_path / 'trace'}"), "is_json": True}
        call = {
            "__class__": "system",
            "__module__": "os",
            "__loader__": "FunctionNode",
            "__id__": 1,
            "content": command,
        }
        for root in (
            call,
            {**call, "__loader__": "OperatorFuncNode", "attrs": command},
            {**call, "__loader__": "ReduceNode", "__reduce__": {"args": command}},
        ):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("schema.json", json.dumps({**schema, **root}))
            seal(bundle, key)
            message = refusal(bundle, policy)
            assert "os.system" in message or "cannot be audited" in message or "not a skops file" in message
            assert not (tmp_path / "trace").exists()

    def test_types_come_from_the_policy_and_not_from_the_bundle(
        self, bundle: Path, policy: Policy, key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from headway.components import model

        monkeypatch.setattr(model, "KNOWN_TYPES", ())
        needed = model.required_types(bundle / "model.skops")
        assert needed, "this pipeline needs no type beyond those of skops: take another"
        mlmodel = bundle / "MLmodel"
        mlmodel.write_text(mlmodel.read_text() + f"trusted_types: {json.dumps(needed)}\n")
        seal(bundle, key)
        assert f"holds the untrusted types {', '.join(needed)}" in refusal(bundle, policy)
        assert load_bundle(bundle, policy=policy.model_copy(update={"types": needed})).format == "skops"

    @pytest.mark.parametrize(
        ("entries", "why"),
        [
            ([("model.txt", b"")], "no schema.json in it"),
            ([("schema.json", b"{}"), ("schema.json", b"{}")], "an entry stands twice"),
            ([("schema.json", b"{}"), ("../../evil", b"")], "an entry outside the archive"),
            ([("schema.json", b"{}"), ("bomb", bytes(70 << 20))], "unpacks to 73,400,322 bytes"),
            ([("schema.json", b"[" * 100_000)], "cannot be audited"),
            ([("schema.json", b"{}")], "cannot be audited"),
            ([("schema.json", b'"x"')], "cannot be audited"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_crafted_archives(
        self, bundle: Path, policy: Policy, key: Path, entries: list[tuple[str, bytes]], why: str
    ) -> None:
        with zipfile.ZipFile(bundle / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                archive.writestr(name, content)
        seal(bundle, key)
        message = refusal(bundle, policy)
        assert why in message or (why == "cannot be audited" and "not a skops file" in message)

    def test_a_format_that_the_policy_does_not_allow(self, bundle: Path, policy: Policy) -> None:
        message = refusal(bundle, policy.model_copy(update={"formats": ["onnx"]}))
        assert "its formats are skops" in message
        assert "Expected: one that the policy allows: onnx" in message


class TestOnnx:
    def spoil(self, bundle: Path, key: Path, change: Callable[..., None]) -> None:
        import onnx

        graph = onnx.load(bundle / "model.onnx")
        change(graph)
        (bundle / "model.onnx").write_bytes(graph.SerializeToString())
        seal(bundle, key)

    def test_weights_in_another_file(self, bundle: Path, policy: Policy, key: Path) -> None:
        import onnx

        def change(model: onnx.ModelProto) -> None:
            tensor = model.graph.initializer.add(name="outside", data_type=1, dims=[1])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../../../etc/passwd")

        self.spoil(bundle, key, change)
        assert "the tensor 'outside' lies in another file" in refusal(bundle, policy)

    def test_weights_in_another_file_deep_inside(self, bundle: Path, policy: Policy, key: Path) -> None:
        import onnx

        def change(model: onnx.ModelProto) -> None:
            node = model.graph.node.add(op_type="If")
            inner = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.node.add(
                op_type="Constant"
            )
            tensor = inner.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t
            tensor.name = "deep"
            tensor.external_data.add(key="location", value="x")

        self.spoil(bundle, key, change)
        assert "the tensor 'deep' lies in another file" in refusal(bundle, policy)

    def test_operators_of_another_library(self, bundle: Path, policy: Policy, key: Path) -> None:
        self.spoil(bundle, key, lambda model: model.graph.node.add(op_type="Shell", domain="com.evil"))
        assert "the operator Shell is of the domain 'com.evil'" in refusal(bundle, policy)

    def test_a_file_that_is_no_graph(self, bundle: Path, policy: Policy, key: Path) -> None:
        (bundle / "model.onnx").write_bytes(b"\xff" * 100)
        seal(bundle, key)
        assert "model.onnx: not an ONNX graph" in refusal(bundle, policy)

    def test_a_graph_that_does_not_run(self, bundle: Path, policy: Policy, key: Path) -> None:
        self.spoil(bundle, key, lambda model: model.graph.node.add(op_type="NoSuchOperator", output=["x"]))
        message = refusal(bundle, policy)
        assert "not an ONNX graph that runs here" in message

    def test_a_format_that_is_not_declared(self, bundle: Path, policy: Policy, key: Path) -> None:
        info = json.loads((bundle / "bundle.json").read_text())
        (bundle / "bundle.json").write_text(json.dumps({**info, "formats": ["skops"], "parity": None}))
        seal(bundle, key)
        assert "one model file for each format, and no other" in refusal(bundle, policy)


class TestMlmodel:
    @pytest.mark.parametrize(
        "text",
        [
            "flavors: {python_function: {loader_module: os}}",
            "flavors: {python_function: {loader_module: headway.components.model, code: code}}",
            "flavors: {python_function: {loader_module: headway.components.model}, sklearn: {}}",
            "flavors: [1]",
            "[]",
        ],
    )
    def test_code_that_mlflow_would_import(self, bundle: Path, policy: Policy, key: Path, text: str) -> None:
        (bundle / "MLmodel").write_text(text)
        seal(bundle, key)
        assert "MLmodel: names code to run" in refusal(bundle, policy)


class TestThePolicy:
    def test_the_embedded_one_is_made_on_first_use(self, tmp_path: Path) -> None:
        installation = Settings(home=tmp_path)
        policy = load_policy(installation)
        key = installation.resolved_signing_key
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
        assert policy.signers[0].public_key.encode() == public_key(key)
        assert "PRIVATE" not in installation.resolved_policy.read_text()
        assert load_policy(installation) == policy

    def test_processes_that_start_at_once_agree(self, tmp_path: Path) -> None:
        with multiprocessing.get_context("fork").Pool(4) as pool:
            found = pool.map(load_policy, [Settings(home=tmp_path)] * 8)
        assert len({policy.dump() for policy in found}) == 1
        assert found[0].signers[0].public_key.encode() == public_key(tmp_path / "keys" / "signing.pem")
        assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["policy.yaml", "signing.pem"]

    def test_a_lost_key_is_not_replaced_silently(self, tmp_path: Path, make_bundle: BundleMaker) -> None:
        load_policy(Settings(home=tmp_path))
        key = tmp_path / "keys" / "signing.pem"
        key.unlink()
        load_policy(Settings(home=tmp_path))
        with pytest.raises(TrustError, match=r"no such signing key[\s\S]*HEADWAY_SIGNING_KEY"):
            sign_bundle(Path(shutil.copytree(make_bundle(), tmp_path / "bundle")), key)

    def test_a_configured_one_must_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            load_policy(Settings(home=tmp_path, policy=tmp_path / "policy.yaml"))

    def test_keys_may_lie_beside_it(self, tmp_path: Path, key: Path) -> None:
        (tmp_path / "release.pub").write_bytes(public_key(key))
        path = tmp_path / "policy.yaml"
        path.write_text("signers: [{name: release, public_key: release.pub}]\n")
        policy = load_policy(Settings(home=tmp_path, policy=path))
        assert policy.signers[0].public_key.encode() == public_key(key)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("types: ['sklearn.*']", "'sklearn.*' is not a full dotted name; wildcards are not allowed"),
            ("types: [Foreign]", "'Foreign' is not a full dotted name"),
            ("formats: [pickle]", "formats.0: Input should be 'skops', 'onnx' or 'torch' (got 'pickle')"),
            ("require_signatures: false", "did you mean 'require_signature'?"),
            ("signers: [{name: a, public_key: x}, {name: a, public_key: y}]", "two signers have one name"),
        ],
    )
    def test_mistakes(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Policy.parse(text)
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"nothing", "not a public key"), (None, "no such file")],
    )
    def test_keys_that_cannot_be_read(self, tmp_path: Path, content: bytes | None, message: str) -> None:
        if content is not None:
            (tmp_path / "release.pub").write_bytes(content)
        (tmp_path / "policy.yaml").write_text("signers: [{name: release, public_key: release.pub}]\n")
        with pytest.raises(TrustError, match=message):
            load_policy(Settings(home=tmp_path, policy=tmp_path / "policy.yaml"))

    def test_a_key_of_another_kind(self, tmp_path: Path) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / "key.pem").write_bytes(pem)
        with pytest.raises(TrustError, match="an EC key: P-256, P-384 or P-521"):
            public_key(tmp_path / "key.pem")
