//! Questions to the running kernel's BTF: where a field is, what a tracepoint is called with.
//!
//! Input: /sys/kernel/btf/vmlinux and, where KVM is a module, /sys/kernel/btf/kvm. Output: offsets and prototypes, or
//! why there is none. It never guesses: a field is found by its name in the struct of that name, or not at all.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use btf_rs::{Btf, BtfType, FuncProto, Struct, Type};

use super::IngestError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const KVM: &str = "/sys/kernel/btf/kvm";
/// Typedefs and qualifiers on the way to a type; more is not BTF of any kernel.
const MAX_CHAIN: usize = 32;
/// Members that are looked at for one field, those of anonymous members included; the largest structs of a kernel have
/// some hundred. Anonymous members that hold each other would be looked at for ever.
const MAX_MEMBERS: usize = 1 << 13;
/// Bytes of a pointer in the kernels this runs on.
const POINTER_BYTES: usize = size_of::<u64>();

/// The BTF that describes KVM.
pub struct KernelBtf {
    btf: Btf,
}

/// A parameter of a function or tracepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Bytes it takes.
    pub size: usize,
    /// What it points to, when it is a pointer to a named struct.
    pub points_to: Option<String>,
}

impl KernelBtf {
    /// Reads the running kernel's BTF; a fraction of a second.
    ///
    /// # Errors
    /// [`IngestError::NoBtf`], and what the parser does not understand.
    pub fn of_running_kernel() -> Result<Self, IngestError> {
        let base = fs::read(VMLINUX).map_err(|source| IngestError::NoBtf { path: VMLINUX.into(), source })?;
        let module = match fs::read(KVM) {
            Ok(bytes) => Some(bytes),
            // Built in, or not loaded: the types are in vmlinux or nowhere.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(IngestError::io("read", KVM, error)),
        };
        Self::parse(&base, module.as_deref())
    }

    /// The same from bytes.
    ///
    /// # Errors
    /// What the parser does not understand.
    pub fn parse(base: &[u8], module: Option<&[u8]>) -> Result<Self, IngestError> {
        let failed = |path: &str| {
            let path = PathBuf::from(path);
            move |source| IngestError::Btf { path, source }
        };
        let base = Btf::from_bytes(base).map_err(failed(VMLINUX))?;
        let btf = match module {
            Some(module) => Btf::from_split_bytes(module, &base).map_err(failed(KVM))?,
            None => base,
        };
        Ok(Self { btf })
    }

    /// Whether there is a full definition of the struct.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        self.find_struct(name).is_some()
    }

    /// Byte offset of `struct.field.field...`, through anonymous members.
    ///
    /// # Errors
    /// Which part was not found, for people.
    pub fn offset(&self, path: &str) -> Result<u32, String> {
        self.field(path).map(|(offset, _)| offset)
    }

    /// Elements of the array `struct.field...`.
    ///
    /// # Errors
    /// Which part was not found, or that it is no array.
    pub fn array_length(&self, path: &str) -> Result<u32, String> {
        match self.field(path)? {
            (_, Type::Array(array)) => u32::try_from(array.len()).map_err(|error| format!("{path}: {error}")),
            (_, _) => Err(format!("{path} is no array")),
        }
    }

    /// What a tracepoint's probes are called with, without the leading `void *__data`.
    ///
    /// # Errors
    /// That there is no such tracepoint.
    pub fn tracepoint(&self, name: &str) -> Result<Vec<Parameter>, String> {
        let typedef = format!("btf_trace_{name}");
        let missing = || format!("this kernel has no tracepoint {name}");
        let types = self.btf.resolve_types_by_name(&typedef).map_err(|_| missing())?;
        let proto = types
            .iter()
            .filter(|candidate| matches!(candidate, Type::Typedef(_)))
            .find_map(|candidate| self.proto_behind(candidate))
            .ok_or_else(missing)?;
        Ok(proto.parameters.iter().skip(1).map(|parameter| self.describe(parameter)).collect())
    }

    /// What a kernel function is called with.
    ///
    /// # Errors
    /// That there is no such function.
    pub fn function(&self, name: &str) -> Result<Vec<Parameter>, String> {
        let missing = || format!("this kernel has no function {name}");
        let types = self.btf.resolve_types_by_name(name).map_err(|_| missing())?;
        let proto = types
            .iter()
            .filter(|candidate| matches!(candidate, Type::Func(_)))
            .find_map(|candidate| self.proto_behind(candidate))
            .ok_or_else(missing)?;
        Ok(proto.parameters.iter().map(|parameter| self.describe(parameter)).collect())
    }

    fn find_struct(&self, name: &str) -> Option<Struct> {
        let types = self.btf.resolve_types_by_name(name).ok()?;
        types.into_iter().find_map(|candidate| match candidate {
            Type::Struct(found) if !found.members.is_empty() => Some(found),
            _ => None,
        })
    }

    fn field(&self, path: &str) -> Result<(u32, Type), String> {
        let mut names = path.split('.');
        let container = names.next().unwrap_or_default();
        let found = self.find_struct(container).ok_or_else(|| format!("struct {container} not in BTF"))?;
        let mut offset = 0;
        let mut current = Type::Struct(found);
        for name in names {
            let (Type::Struct(container) | Type::Union(container)) = &current else {
                return Err(format!("{path}: {name} is looked for in something that is no struct"));
            };
            let mut left = MAX_MEMBERS;
            let (bits, found) = self
                .member(container, name, 0, &mut left)
                .ok_or_else(|| format!("{path}: no field {name} in BTF"))?;
            if bits % 8 != 0 {
                return Err(format!("{path}: {name} is a bit field"));
            }
            // At most 2^29 for each name, and paths are short.
            offset += bits / 8;
            current = found;
        }
        Ok((offset, current))
    }

    /// Bit offset and type of a member, looked for in anonymous members, too.
    fn member(&self, container: &Struct, name: &str, depth: usize, left: &mut usize) -> Option<(u32, Type)> {
        *left = left.checked_sub(container.members.len())?;
        if depth > MAX_CHAIN {
            return None;
        }
        for member in &container.members {
            let member_name = self.btf.resolve_name(member).unwrap_or_default();
            if member_name == name {
                return Some((member.bit_offset(), self.strip(self.btf.resolve_chained_type(member).ok()?)?));
            }
            if !member_name.is_empty() {
                continue;
            }
            let inner = self.btf.resolve_chained_type(member).ok().and_then(|inner| self.strip(inner));
            if let Some(Type::Struct(inner) | Type::Union(inner)) = inner
                && let Some((bits, found)) = self.member(&inner, name, depth + 1, left)
            {
                return Some((member.bit_offset().checked_add(bits)?, found));
            }
        }
        None
    }

    /// The type behind typedefs and qualifiers.
    fn strip(&self, mut current: Type) -> Option<Type> {
        for _ in 0..MAX_CHAIN {
            current = match &current {
                Type::Typedef(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Volatile(inner) | Type::Const(inner) | Type::Restrict(inner) => {
                    self.btf.resolve_chained_type(inner).ok()?
                }
                Type::TypeTag(inner) => self.btf.resolve_chained_type(inner).ok()?,
                _ => return Some(current),
            };
        }
        None
    }

    fn proto_behind(&self, start: &Type) -> Option<FuncProto> {
        let mut current = start.clone();
        for _ in 0..MAX_CHAIN {
            current = match self.strip(current)? {
                Type::FuncProto(proto) => return Some(proto),
                Type::Ptr(pointer) => self.btf.resolve_chained_type(&pointer).ok()?,
                Type::Func(function) => self.btf.resolve_chained_type(&function).ok()?,
                _ => return None,
            };
        }
        None
    }

    fn describe(&self, parameter: &btf_rs::Parameter) -> Parameter {
        let stripped = self.btf.resolve_chained_type(parameter).ok().and_then(|found| self.strip(found));
        match stripped {
            Some(Type::Ptr(pointer)) => {
                let target = self.btf.resolve_chained_type(&pointer).ok().and_then(|found| self.strip(found));
                let points_to = match &target {
                    Some(Type::Struct(target) | Type::Union(target)) => self.name_of(target),
                    Some(Type::Fwd(target)) => self.name_of(target),
                    _ => None,
                };
                Parameter { size: POINTER_BYTES, points_to }
            }
            Some(Type::Int(int)) => Parameter { size: int.size(), points_to: None },
            Some(Type::Enum(found)) => Parameter { size: found.size(), points_to: None },
            Some(Type::Enum64(found)) => Parameter { size: found.size(), points_to: None },
            _ => Parameter { size: 0, points_to: None },
        }
    }

    fn name_of(&self, found: &dyn BtfType) -> Option<String> {
        self.btf.resolve_name(found).ok().filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests;
