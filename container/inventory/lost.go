package inventory

import (
	"errors"

	"github.com/minirun/minirun/overlay"
)

func (s *Stores) lost(sn overlay.SnapshotInfo) *LostContainer {
	if s.Lost == nil {
		return nil
	}
	return s.Lost(sn)
}

func (l *LostContainer) why(key string) string {
	return "container " + ContainerOf(key) + " is lost: its record " + l.Record + " went with an earlier boot"
}

// wanted reports whether what a lost container has written is kept.
func (s *Stores) wanted(sn overlay.SnapshotInfo, l *LostContainer) (bool, error) {
	if l.Disposable || s.RemoveLost {
		return false, nil
	}
	return s.Layers.Written(sn.Key)
}

// LostData is what a lost container had written.
type LostData struct {
	Container string
	Record    string // where the container's record was
	Dir       string
	Disk      int64
}

// sweepLost takes the snapshots of lost containers out of use, so that they keep no
// layer: what those have written is moved, or deleted when nobody wants it.
func (c *Collected) sweepLost(s Stores) error {
	snapshots, err := s.Layers.Snapshots()
	if err != nil {
		return err
	}
	var errs []error
	for _, sn := range snapshots {
		l := s.lost(sn)
		if l == nil {
			continue
		}
		wanted, err := s.wanted(sn, l)
		switch {
		case err != nil:
		case wanted:
			var dir string
			if dir, err = s.Layers.Retire(sn.Key); err == nil && dir != "" {
				data := LostData{Container: ContainerOf(sn.Key), Record: l.Record, Dir: dir}
				if d, err := measure(dir); err == nil {
					data.Disk = d.total
				}
				c.Lost = append(c.Lost, data)
			}
		default:
			c.count(s.Layers.Root() + "/snapshots/" + sn.Key)
			err = s.Layers.RemoveSnapshot(sn.Key)
			c.Snapshots++
		}
		errs = append(errs, err)
	}
	if s.RemoveLost {
		retired, err := s.Layers.Retired()
		errs = append(errs, err)
		for _, r := range retired {
			c.count(r.Dir)
			errs = append(errs, s.Layers.RemoveRetired(r.Key))
			c.Snapshots++
		}
	}
	return errors.Join(errs...)
}
