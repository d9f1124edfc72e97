package usernet

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

const version = 1

// save writes down who connects the container and which ports lead to it.
func (h *Helper) save(dir string) error {
	b := jsonread.AppendInt(append([]byte(nil), `{"version":`...), version)
	b = jsonread.AppendString(jsonread.AppendKey(b, "kind"), h.Kind)
	b = append(jsonread.AppendKey(b, "ports"), '[')
	for i := range h.Ports {
		b = jsonread.AppendString(jsonread.AppendComma(b), h.Ports[i].String())
	}
	return network.WriteFile(dir+"/"+recordFile, append(b, "]}\n"...))
}

// Load reads who connects the container and its ports; nil if nobody does.
func Load(dir string) (*Helper, error) {
	fail := func(err error) (*Helper, error) {
		return nil, fmt.Errorf("read %q: %w", dir+"/"+recordFile, err)
	}
	raw, err := linux.ReadFile(dir+"/"+recordFile, 1<<20)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil //nolint:nilnil // nobody
	}
	if err != nil {
		return nil, err
	}
	h, v := new(Helper), 0
	r := jsonread.New(raw)
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		switch key {
		case "version":
			r.Int(&v)
		case "kind":
			r.String(&h.Kind)
		case "ports":
			for ok := r.Array(); ok; ok = r.NextElem() {
				var text string
				r.String(&text)
				p, err := network.ParsePublish(text)
				if err != nil {
					return fail(err)
				}
				h.Ports = append(h.Ports, store.Port(p))
			}
		default:
			r.Skip()
		}
	}
	if err := r.End(); err != nil {
		return fail(err)
	}
	if v != version {
		return fail(fmt.Errorf("version %d: want %d", v, version))
	}
	return h, nil
}
