//! Bytes as what a client sends to a broker: frames, headers, requests of every API and version.
#![no_main]

use bytes::Bytes;
use kafka_wire::Request;
use kafka_wire::frame::{FrameDecoder, decode_request, decode_request_header};
use kafka_wire::messages::*;
use libfuzzer_sys::fuzz_target;

const MAX_FRAME_BYTES: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let mut frames = FrameDecoder::new(MAX_FRAME_BYTES);
    frames.read_buffer().extend_from_slice(data);
    while let Ok(Some(frame)) = frames.next_frame() {
        handle(frame);
    }
    // Most inputs do not begin with a length that fits; the rest of the work is behind it.
    handle(Bytes::copy_from_slice(data));
});

fn handle(mut frame: Bytes) {
    let Ok(header) = decode_request_header(&mut frame) else { return };
    let (key, version) = (header.request_api_key, header.request_api_version);
    macro_rules! decode {
        ($($request:ident)*) => {
            match key {
                $(<$request>::KEY => drop(decode_request::<$request>(frame, version)),)*
                _ => {}
            }
        };
    }
    fuzz::for_each_request!(decode);
}
