//! The arguments of a call.

use std::sync::Arc;

use super::{budget::Error, value::Value};

#[derive(Debug, Default)]
pub(crate) struct CallArguments {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl CallArguments {
    /// The arguments by the names of the parameters, of which the first `required` must be given. A parameter with an
    /// empty name takes no keyword.
    ///
    /// # Errors
    /// Too many, one twice, an unknown name, or a required one is missing.
    pub fn take<const N: usize>(
        self,
        function: &str,
        required: usize,
        names: [&str; N],
    ) -> Result<[Option<Value>; N], Error> {
        let given = self.positional.len();
        if given > N {
            return Err(Error::new(format!("{function}() takes at most {N} arguments ({given} given)")));
        }
        let mut taken = [const { None }; N];
        for (place, value) in taken.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let place = names.iter().position(|known| !known.is_empty() && **known == *name);
            let place =
                place.ok_or_else(|| Error::new(format!("{function}() got an unexpected keyword argument '{name}'")))?;
            if taken[place].is_some() {
                return Err(Error::new(format!("{function}() got multiple values for argument '{name}'")));
            }
            taken[place] = Some(value);
        }
        match taken[..required].iter().position(Option::is_none) {
            Some(missing) => {
                let name = match names[missing] {
                    "" => format!("argument {}", missing + 1),
                    name => format!("argument '{name}'"),
                };
                Err(Error::new(format!("{function}() is missing its {name}")))
            }
            None => Ok(taken),
        }
    }

    /// Refuses keywords.
    pub fn positional_only(self, function: &str) -> Result<Vec<Value>, Error> {
        match self.named.first() {
            Some((name, _)) => Err(Error::new(format!("{function}() got an unexpected keyword argument '{name}'"))),
            None => Ok(self.positional),
        }
    }
}
