//! Bytes as what a broker answers to a client: an API key and a version, which the client knows, then the frame.
#![no_main]

use bytes::Bytes;
use kafka_wire::Request;
use kafka_wire::frame::{decode_response, peek_correlation_id};
use kafka_wire::messages::*;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [key, version, frame @ ..] = data else { return };
    let frame = Bytes::copy_from_slice(frame);
    let _ = peek_correlation_id(&frame);
    let (key, version) = (i16::from(*key), i16::from(*version));
    macro_rules! decode {
        ($($request:ident)*) => {
            match key {
                $(<$request>::KEY => drop(decode_response::<$request>(frame, version)),)*
                _ => {}
            }
        };
    }
    fuzz::for_each_request!(decode);
});
