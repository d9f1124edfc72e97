package apply

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/minirun/minirun/overlay"
)

// Chain returns the chain ID of the layer diffID on top of parent:
// ChainID(L0) = DiffID(L0), ChainID(L0|...|Ln) = sha256(ChainID(L0|...|Ln-1) + " " + DiffID(Ln)).
func Chain(parent overlay.ChainID, diffID string) overlay.ChainID {
	if parent == "" {
		return overlay.ChainID(diffID)
	}
	sum := sha256.Sum256([]byte(string(parent) + " " + diffID))
	return overlay.ChainID("sha256:" + hex.EncodeToString(sum[:]))
}
