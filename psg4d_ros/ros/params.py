"""ROS parameters, made from the configuration dataclasses: a parameter exists because a field exists.

One walker gives every field its dotted parameter name (``window.num_frames``), its descriptor (text, range, choices)
and its type. Values come from YAML files and ``-p``; an unknown name, a wrong type or a value out of range is a
ConfigError.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.parameter import Parameter

from psg4d_ros.config import check, from_dict
from psg4d_ros.errors import ConfigError

T = TypeVar("T")

# Names that rclpy declares by itself, before or after ours; anything else that nobody declares is a typing error.
_FOREIGN_NAMES = ("use_sim_time", "start_type_description_service")
_FOREIGN_PREFIXES = ("qos_overrides.",)

_SCALAR_TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}
_ARRAY_TYPES = {
    bool: Parameter.Type.BOOL_ARRAY,
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}


@dataclass(frozen=True)
class ParameterSpec:
    """One field as a ROS parameter. ``hint``: its type (bool, int, float, str, or a tuple of one of them)."""

    name: str
    hint: Any
    spec: dataclasses.Field[Any]

    @property
    def type(self) -> Parameter.Type:
        if self.hint in _SCALAR_TYPES:
            return _SCALAR_TYPES[self.hint]
        return _ARRAY_TYPES[typing.get_args(self.hint)[0]]

    @property
    def is_array(self) -> bool:
        return self.hint not in _SCALAR_TYPES

    @property
    def default(self) -> Any:
        if self.spec.default is not dataclasses.MISSING:
            return self.spec.default
        return typing.cast(Any, self.spec.default_factory)()

    def descriptor(self) -> ParameterDescriptor:
        metadata = self.spec.metadata
        descriptor = ParameterDescriptor(name=self.name, description=metadata["help"], type=self.type.value)
        low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
        if choices:
            descriptor.additional_constraints = f"one of: {', '.join(choices)}"
        if low is not None and high is not None:
            if self.type is Parameter.Type.INTEGER:
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
            elif self.type is Parameter.Type.DOUBLE:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
                ]
        return descriptor

    def checked(self, value: Any) -> Any:
        """``value`` as the field's type; ConfigError when type, range or choice is wrong."""
        if self.is_array and not isinstance(value, str) and hasattr(value, "tolist"):
            value = value.tolist()  # rclpy keeps number arrays as array.array
        return check(self.spec, self.hint, value, self.name)


def parameter_specs(config_class: type, prefix: str = "") -> Iterator[ParameterSpec]:
    """Walk a config dataclass and its nested ones, in the order of declaration."""
    hints = typing.get_type_hints(config_class)
    for spec in dataclasses.fields(config_class):
        hint = hints[spec.name]
        if dataclasses.is_dataclass(hint):
            yield from parameter_specs(typing.cast(type, hint), f"{prefix}{spec.name}.")
        else:
            yield ParameterSpec(f"{prefix}{spec.name}", hint, spec)


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError for the names in ``given`` that are no parameter, with the known names most like them."""
    known = sorted(known)
    complaints = []
    for name in sorted(given):
        if name in known or name in _FOREIGN_NAMES or name.startswith(_FOREIGN_PREFIXES):
            continue
        # Also by the last part of the name, so that a knob written into the wrong group is found.
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        near += [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2] and k not in near]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known parameters: {', '.join(known)}"
        complaints.append(f"unknown parameter {name!r}; {hint}")
    if complaints:
        raise ConfigError("; ".join(complaints))


def declare(node: Any, config_class: type[T]) -> T:
    """Declare every field of ``config_class`` as a parameter of ``node`` and return the values that hold.

    Raises ConfigError for parameters given (YAML, ``-p``, launch) that do not exist or do not fit.
    """
    specs = list(parameter_specs(config_class))
    # rclpy has no public way to ask for values given to parameters that are not declared.
    overrides: Mapping[str, Parameter] = node._parameter_overrides
    refuse_unknown(overrides, [spec.name for spec in specs])
    for spec in specs:
        override = overrides.get(spec.name)
        # An empty list in a YAML file arrives without a type.
        given = override is not None and not (override.type_ is Parameter.Type.NOT_SET and spec.is_array)
        value = spec.checked(override.value) if override is not None and given else spec.default
        if spec.is_array:
            # The type of a list cannot be told from its values when it is empty, so it is declared first and set then.
            node.declare_parameter(spec.name, spec.type, spec.descriptor(), ignore_override=True)
            node.set_parameters([Parameter(spec.name, spec.type, list(value))])
        else:
            node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)
    return read(node, config_class)


def read(node: Any, config_class: type[T]) -> T:
    """The declared parameters of ``node`` as a ``config_class``. Raises ConfigError when a value does not fit."""
    values: dict[str, Any] = {}
    for spec in parameter_specs(config_class):
        *groups, name = spec.name.split(".")
        target = values
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = spec.checked(node.get_parameter(spec.name).value)
    return from_dict(config_class, values)


def check_change(config_class: type, parameters: Iterable[Parameter], *, configured: bool) -> SetParametersResult:
    """The answer to a request to change parameters of a running node.

    The configuration is read at configure, so a change while the node is configured would be silently without effect;
    it is refused instead.
    """
    specs = {spec.name: spec for spec in parameter_specs(config_class)}
    for parameter in parameters:
        spec = specs.get(parameter.name)
        if spec is None:
            continue
        if configured:
            reason = f"{parameter.name} is read at configure; deactivate and clean up the node first, then change it"
            return SetParametersResult(successful=False, reason=reason)
        try:
            spec.checked(parameter.value)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
