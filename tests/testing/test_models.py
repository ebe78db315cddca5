import copy

import torch

from noether.testing.models import squared_error, tiny, view


def test_the_tiny_model_is_always_the_same_and_draws_no_number_of_others() -> None:
    before = torch.get_rng_state()
    one, other = tiny(), tiny()
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert [n for n, p in one.named_parameters() if not p.requires_grad] == ["body.bias"]


def test_a_view_has_tensors_of_its_own() -> None:
    module = tiny()
    known = copy.deepcopy(module.state_dict())
    made = view(module, squared_error, 3, gradients=True)
    with torch.no_grad():
        made.predict(torch.ones(4, 3))
        for tensor in (*made.parameters.values(), *made.buffers.values()):
            tensor.zero_()
    for name, value in module.state_dict().items():
        assert torch.equal(value, known[name])


def test_a_view_is_that_of_its_update() -> None:
    one, same, later = (view(tiny(), squared_error, n, gradients=False) for n in (3, 3, 4))
    weight = "head.weight"
    assert torch.equal(one.parameters[weight], same.parameters[weight])
    assert not torch.equal(one.parameters[weight], later.parameters[weight])


def test_gradients_are_those_of_what_is_trained() -> None:
    assert not view(tiny(), squared_error, 1, gradients=False).gradients
    made = view(tiny(), squared_error, 1, gradients=True)
    assert set(made.gradients) == set(made.parameters) - {"body.bias"}
    norm = torch.stack([g.norm() for g in made.gradients.values()]).norm()
    assert made.grad_norm is not None
    assert torch.allclose(made.grad_norm, norm)


def test_its_loss_is_the_loss_of_its_weights() -> None:
    made = view(tiny().eval(), squared_error, 1, gradients=False)
    batch = torch.ones(4, 3), torch.zeros(4, 2)
    expected = made.predict(batch).pow(2).mean()
    assert torch.allclose(made.loss(batch)["total"], expected)
