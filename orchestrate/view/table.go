package view

import (
	"encoding/json"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

// columns names those of a kind; a plus in front says that only -o wide shows it.
func columns(k *api.Kind) []string {
	switch k.Name() {
	case "pods":
		return []string{"Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"}
	case "deployments.apps":
		return []string{"Name", "Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector"}
	case "replicasets.apps":
		return []string{"Name", "Desired", "Current", "Ready", "Age", "+Containers", "+Images", "+Selector"}
	case "statefulsets.apps":
		return []string{"Name", "Ready", "Age", "+Containers", "+Images"}
	case "daemonsets.apps":
		return []string{"Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age", "+Containers", "+Images", "+Selector"}
	case "controllerrevisions.apps":
		return []string{"Name", "Controller", "Revision", "Age"}
	case "jobs.batch":
		return []string{"Name", "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"}
	case "cronjobs.batch":
		return []string{"Name", "Schedule", "Timezone", "Suspend", "Active", "Last Schedule", "Age", "+Containers", "+Images", "+Selector"}
	case "services":
		return []string{"Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"}
	case "endpoints":
		return []string{"Name", "Endpoints", "Age"}
	case "endpointslices.discovery.k8s.io":
		return []string{"Name", "AddressType", "Ports", "Endpoints", "Age"}
	case "configmaps":
		return []string{"Name", "Data", "Age"}
	case "secrets":
		return []string{"Name", "Type", "Data", "Age"}
	case "namespaces":
		return []string{"Name", "Status", "Age"}
	case "nodes":
		return []string{"Name", "Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP", "+OS-Image", "+Kernel-Version", "+Container-Runtime"}
	case "persistentvolumes":
		return []string{"Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass", "VolumeAttributesClass", "Reason", "Age", "+VolumeMode"}
	case "persistentvolumeclaims":
		return []string{"Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age", "+VolumeMode"}
	case "storageclasses.storage.k8s.io":
		return []string{"Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"}
	case "events":
		return []string{"Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen", "+Count", "+Name"}
	}
	return []string{"Name", "Created At"}
}

// numbers are the columns that are no text.
func number(name string) bool {
	switch name {
	case "Up-to-date", "Available", "Desired", "Current", "Active", "Data", "Revision", "+Count":
		return true
	}
	return false
}

// Columns are those of a kind's table.
func Columns(k *api.Kind) []metav1.TableColumnDefinition {
	var out []metav1.TableColumnDefinition
	for _, name := range columns(k) {
		c := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if number(name) {
			c.Type = "integer"
		}
		if name[0] == '+' {
			c.Name, c.Priority = name[1:], 1
		}
		if c.Name == "Name" {
			c.Format = "name"
		}
		out = append(out, c)
	}
	return out
}

// Row is an object in the columns of its kind. include is what of the object goes
// with it: None, Object, or else its metadata.
func Row(k *api.Kind, obj store.Object, now time.Time, include string) (metav1.TableRow, error) {
	row := metav1.TableRow{Cells: cells(obj, now)}
	var with any
	switch include {
	case "None":
		return row, nil
	case "Object":
		with = obj
	default:
		m := metav1.PartialObjectMetadata{
			TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"},
			ObjectMeta: metav1.ObjectMeta{
				Name: obj.GetName(), GenerateName: obj.GetGenerateName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
				ResourceVersion: obj.GetResourceVersion(), Generation: obj.GetGeneration(), CreationTimestamp: obj.GetCreationTimestamp(),
				DeletionTimestamp: obj.GetDeletionTimestamp(), DeletionGracePeriodSeconds: obj.GetDeletionGracePeriodSeconds(),
				Labels: obj.GetLabels(), Annotations: obj.GetAnnotations(), OwnerReferences: obj.GetOwnerReferences(), Finalizers: obj.GetFinalizers(),
			},
		}
		with = &m
	}
	raw, err := json.Marshal(with)
	row.Object = runtime.RawExtension{Raw: raw}
	return row, err
}

// NewTable is one without rows.
func NewTable(k *api.Kind, meta metav1.ListMeta) *metav1.Table {
	return &metav1.Table{
		TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "Table"}, ListMeta: meta,
		ColumnDefinitions: Columns(k), Rows: []metav1.TableRow{},
	}
}
