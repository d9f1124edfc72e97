package archive

import (
	"context"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// A file becomes a sparse one when that saves so much: readers that know
	// nothing of it are rare, and rather have a plain file.
	minHoles = 64 << 10
	// maxSegments bounds the map: readers refuse those of more than 1 MiB.
	maxSegments = 8192
	// maxFill is how much of a file's holes may become zeros because the map has
	// no room for them, if that is more than the file's data. Without a bound, a
	// container could have commit write as much as a file can be long.
	maxFill = 8 << 30
)

// HolesError reports a file with more holes than an archive can tell of, and so
// large ones that they cannot become zeros.
type HolesError struct {
	Name       string
	Size, Data int64
}

func (e *HolesError) Error() string {
	return fmt.Sprintf("%q: its %d bytes of data are spread over %d in more than %d pieces, which an archive cannot tell", e.Name, e.Data, e.Size, maxSegments)
}

// Hint says what to do.
func (e *HolesError) Hint() string {
	return "remove the file, keep it in a volume, or make it one piece: cp --sparse=never"
}

type segment struct{ off, n int64 }

func (s segment) end() int64 { return s.off + s.n }

// segments are the parts of a file that are no holes, at most maxSegments of
// them: the smallest holes count as data, filled bytes.
func segments(ctx context.Context, fd int, size int64) (list []segment, filled int64, err error) {
	fit := func(most int) {
		var n int64
		list, n = joined(list, most)
		filled += n
	}
	for at := int64(0); at < size; {
		off, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err == nil && off < size {
			at, err = unix.Seek(fd, off, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, 0, os.NewSyscallError("lseek", err)
		}
		if off >= size {
			break
		}
		if len(list) == 16*maxSegments {
			// There may be as many as the disk has blocks.
			if err := ctx.Err(); err != nil {
				return nil, 0, context.Cause(ctx)
			}
			fit(8 * maxSegments)
		}
		list = append(list, segment{off, min(at, size) - off})
	}
	fit(maxSegments)
	return list, filled, nil
}

// joined makes at most most segments of the list, which is in order: the
// smallest holes become data. filled is how large these were together. It may
// use the list's memory.
func joined(list []segment, most int) (out []segment, filled int64) {
	many := len(list) - most
	if many <= 0 {
		return list, 0
	}
	holes := make([]int64, len(list)-1)
	for i := range holes {
		holes[i] = list[i+1].off - list[i].end()
	}
	slices.Sort(holes)
	// Those below the limit go, and as many of its size as it takes.
	limit := holes[many-1]
	below, _ := slices.BinarySearch(holes, limit)
	equal := many - below
	out = list[:1]
	for _, s := range list[1:] {
		last := &out[len(out)-1]
		hole := s.off - last.end()
		if hole == limit && equal > 0 {
			equal--
		} else if hole >= limit {
			out = append(out, s)
			continue
		}
		filled += hole
		last.n = s.end() - last.off
	}
	return out, filled
}
