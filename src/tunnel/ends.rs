//! Maps each error of a leaf to an end. Pure; the leaves do not know the vocabulary of ends.

use std::io;

use crate::dial::DialError;
use crate::greeting::GreetingError;
use crate::outcome::{DenyReason, End, Failure};
use crate::sys;
use crate::wire::client_hello::HelloError;
use crate::wire::connect::HeadError;
use crate::wire::message::MessageError;
use crate::wire::server_hello::ServerFlightError;

pub(super) fn of_head(error: HeadError) -> End {
    match error {
        HeadError::Method => DenyReason::MethodNotAllowed.into(),
        HeadError::TooLarge => DenyReason::HeadTooLarge.into(),
        HeadError::Tls => DenyReason::TlsOnCleartext.into(),
        _ => DenyReason::BadRequest.into(),
    }
}

/// The end of a client whose socket cannot be read.
pub(super) fn of_reading(error: &io::Error) -> End {
    if sys::is_fault_in_here(error) {
        Failure::InternalError.into()
    } else {
        Failure::ClientReset.into()
    }
}

pub(super) fn of_dial(error: &DialError) -> End {
    match error {
        DialError::NoFamily => Failure::DnsFailed.into(),
        DialError::Socket(_) => DenyReason::TunnelLimit.into(),
        DialError::Denied(_) => DenyReason::DestinationDenied.into(),
        DialError::Egress(_) | DialError::Routing(_) => Failure::EgressUnavailable.into(),
        DialError::Ports(_) => Failure::EgressPortsExhausted.into(),
        DialError::Unreachable(_) => Failure::ConnectUnreachable.into(),
        DialError::Timeout(_) => Failure::ConnectTimeout.into(),
        DialError::Reset(_) => Failure::ConnectReset.into(),
        DialError::Refused(_) => Failure::ConnectRefused.into(),
    }
}

pub(super) fn of_greeting(error: &GreetingError) -> End {
    match error {
        GreetingError::Inside(_)
        | GreetingError::Hello(HelloError::Message(MessageError::Lost))
        | GreetingError::Record(MessageError::Lost)
        | GreetingError::ServerFlight(ServerFlightError::Message(MessageError::Lost)) => {
            Failure::InternalError.into()
        }
        GreetingError::Hello(HelloError::Message(MessageError::NotTls)) => {
            DenyReason::NotTls.into()
        }
        GreetingError::Hello(HelloError::Message(MessageError::TooLarge)) => {
            DenyReason::ClientHelloTooLarge.into()
        }
        GreetingError::HelloMemory => DenyReason::ClientHelloTooLarge.into(),
        GreetingError::Hello(_)
        | GreetingError::Truncated
        | GreetingError::OutOfPlace
        | GreetingError::Record(_) => DenyReason::ClientHelloMalformed.into(),
        GreetingError::Denied(reason) => (*reason).into(),
        GreetingError::ServerFlight(ServerFlightError::Message(MessageError::NotTls)) => {
            Failure::ServerNotTls.into()
        }
        GreetingError::ServerFlight(ServerFlightError::Version) => {
            DenyReason::ServerTlsVersionDenied.into()
        }
        GreetingError::ServerFlight(_)
        | GreetingError::FlightOutOfTurn
        | GreetingError::AnswerMemory
        | GreetingError::AnswerTruncated => Failure::ServerHelloMalformed.into(),
        GreetingError::Closed => Failure::ClientClosed.into(),
        GreetingError::Read(error) => of_reading(error),
    }
}
