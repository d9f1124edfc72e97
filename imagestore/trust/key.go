package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Key is a public key.
type Key struct {
	Name   string
	verify func(message, signature []byte) bool
}

// ParseKey reads a public key as cosign writes it: PEM, "PUBLIC KEY", of ECDSA on
// the curve P-256 or of ed25519.
func ParseKey(name string, text []byte) (*Key, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("key %q: it is not PEM", name)
	case block.Type != "PUBLIC KEY":
		return nil, fmt.Errorf("key %q: it is a %q, want a PUBLIC KEY", name, block.Type)
	}
	if again, _ := pem.Decode(rest); again != nil {
		return nil, fmt.Errorf("key %q: there are several", name)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", name, err)
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("key %q: it is on the curve %s, want P-256: %w", name, k.Curve.Params().Name, errors.ErrUnsupported)
		}
		return &Key{name, func(message, signature []byte) bool {
			sum := sha256.Sum256(message)
			return ecdsa.VerifyASN1(k, sum[:], signature)
		}}, nil
	case ed25519.PublicKey:
		return &Key{name, func(message, signature []byte) bool { return ed25519.Verify(k, message, signature) }}, nil
	}
	return nil, fmt.Errorf("key %q: a key of type %T, want ECDSA P-256 or ed25519: %w", name, public, errors.ErrUnsupported)
}
