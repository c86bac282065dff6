//! A client whose plain calls share requests.
