use super::*;
use proptest::prelude::*;

const CODECS: [Compression; 7] = [
    Compression::None,
    Compression::GZIP,
    Compression::Gzip(1),
    Compression::Snappy,
    Compression::Lz4,
    Compression::ZSTD,
    Compression::Zstd(-5),
];

fn compressed(codec: Compression, input: &[u8]) -> Bytes {
    let mut out = Vec::new();
    compress(codec, input, &mut out).map(|()| out.into()).unwrap_or_default()
}

proptest! {
    #[test]
    fn every_codec_gives_back_what_it_got(input in proptest::collection::vec(any::<u8>(), 0..5000), repeat in 1usize..40) {
        let input = input.repeat(repeat);
        for codec in CODECS {
            let packed = compressed(codec, &input);
            prop_assert_eq!(&decompress(codec.kind(), &packed, input.len()).unwrap()[..], &input[..]);
        }
    }

    #[test]
    fn a_compressor_that_is_used_again_gives_back_each_input(
        inputs in proptest::collection::vec((0usize..CODECS.len(), any::<u8>(), 0usize..200_000, 1u8..20), 1..12),
    ) {
        let mut compressor = Compressor::default();
        for (codec, seed, length, step) in inputs {
            let codec = CODECS[codec];
            let input: Vec<u8> = (0..length).map(|at| (at / 7) as u8 ^ seed.wrapping_mul(step)).collect();
            let mut packed = b"before".to_vec();
            compressor.compress(codec, &input, &mut packed).unwrap();
            let packed = Bytes::from(packed).split_off(6);
            prop_assert_eq!(&decompress(codec.kind(), &packed, input.len()).unwrap()[..], &input[..]);
        }
    }

    #[test]
    fn damaged_data_is_an_error_or_other_bytes_but_never_a_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let input = b"the quick brown fox jumps over the lazy dog ".repeat(50);
        for codec in CODECS {
            let mut packed = compressed(codec, &input).to_vec();
            for (at, byte) in &flips {
                let at = at.index(packed.len());
                packed[at] = *byte;
            }
            let _ = decompress(codec.kind(), &Bytes::from(packed.clone()), 10_000);
            packed.truncate(cut.index(packed.len()));
            let _ = decompress(codec.kind(), &Bytes::from(packed), 10_000);
        }
    }
}

#[test]
fn a_bomb_is_refused_at_the_limit() {
    let zeros = vec![0u8; 10_000_000];
    for codec in CODECS {
        let packed = compressed(codec, &zeros);
        let error = decompress(codec.kind(), &packed, 1_000_000).unwrap_err();
        assert!(matches!(error, CompressionError::TooLarge { limit: 1_000_000, .. }), "{error}");
    }
}

#[test]
fn snappy_without_framing_is_read_too() {
    let raw = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
    let read = decompress(CompressionType::Snappy, &Bytes::from(raw), 100).unwrap();
    assert_eq!(&read[..], b"hello hello hello");
}

#[test]
fn names_and_levels_parse_as_kafka_spells_them() {
    assert_eq!("zstd:9".parse::<Compression>().unwrap(), Compression::Zstd(9));
    assert_eq!("gzip".parse::<Compression>().unwrap(), Compression::GZIP);
    for bad in ["brotli", "gzip:0", "gzip:x", "lz4:3", "zstd:23", ""] {
        assert!(bad.parse::<Compression>().unwrap_err().to_string().contains("expected"), "{bad}");
    }
}

#[test]
fn what_lz4_cannot_make_smaller_is_stored() {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..150_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let packed = compressed(Compression::Lz4, &noise);
    assert!(packed.len() < noise.len() + 32, "{} bytes", packed.len());
    assert_eq!(&decompress(CompressionType::Lz4, &packed, noise.len()).unwrap()[..], &noise[..]);
}
