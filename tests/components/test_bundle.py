"""The bundle's manifest: every byte counts."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.bundle import REQUIRED_FILES, Signature, bundle_digest, verify_manifest, write_manifest
from headway.components.data_validate.contract import Contract
from headway.components.errors import HeadwayError, TrustError

FILES = [name for name in REQUIRED_FILES if name != "manifest.json"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_text(f"content of {name}")
    write_manifest(tmp_path)
    return tmp_path


def test_an_untouched_bundle_verifies_and_keeps_its_digest(bundle: Path) -> None:
    assert verify_manifest(bundle) == bundle_digest(bundle) == write_manifest(bundle)


def test_a_signature_beside_it_does_not_count(bundle: Path) -> None:
    digest = bundle_digest(bundle)
    (bundle / "bundle.sig").write_text("signature")
    assert verify_manifest(bundle) == digest


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_named(bundle: Path, name: str) -> None:
    text = (bundle / name).read_text()
    (bundle / name).write_text(text[:-1] + "X")
    with pytest.raises(TrustError, match=f"{name} was changed"):
        verify_manifest(bundle)


def test_missing_and_extra_files_are_named_together(bundle: Path) -> None:
    (bundle / "bundle.json").unlink()
    (bundle / "extra.pkl").write_text("x")
    with pytest.raises(TrustError, match=r"bundle.json is missing; extra.pkl is not in the manifest"):
        verify_manifest(bundle)


def test_a_link_is_refused_even_to_the_same_bytes(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "same"
    (bundle / "bundle.json").rename(elsewhere)
    (bundle / "bundle.json").symlink_to(elsewhere)
    with pytest.raises(TrustError, match=r"bundle.json is a link"):
        verify_manifest(bundle)


def test_a_manifest_that_leaves_out_a_required_file_is_refused(bundle: Path) -> None:
    (bundle / "signature.json").unlink()
    write_manifest(bundle)
    with pytest.raises(TrustError, match=r"signature.json is required"):
        verify_manifest(bundle)


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"no manifest.json"):
        verify_manifest(tmp_path)


@given(position=st.integers(min_value=0), change=st.integers(min_value=1, max_value=255))
def test_any_one_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, position: int, change: int) -> None:
    bundle = tmp_path_factory.mktemp("bundle")
    for name in FILES:
        (bundle / name).write_text(f"content of {name}")
    digest = write_manifest(bundle)
    paths = sorted(path for path in bundle.iterdir())
    path = paths[position % len(paths)]
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= change
    path.write_bytes(bytes(content))
    try:
        assert verify_manifest(bundle) != digest, "a manifest that still reads well names another bundle"
    except HeadwayError as error:
        assert str(bundle) in str(error)  # noqa: PT017 - either outcome is right


def test_the_signature_follows_the_contract() -> None:
    contract = Contract.parse(
        "{name: t, target: y, columns: {a: {type: number, missing: {max_share: 0.1}}, b: {type: string}, "
        "y: {type: boolean}}}"
    )
    signature = json.loads(Signature.of(contract, "binary").model_dump_json())
    assert signature["inputs"] == [
        {"name": "a", "type": "number", "required": False},
        {"name": "b", "type": "string", "required": True},
    ]
    assert [port["name"] for port in signature["outputs"]] == ["prediction", "probability"]
    assert [port.name for port in Signature.of(contract, "regression").outputs] == ["prediction"]
