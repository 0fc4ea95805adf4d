// What a panel of this dashboard is, in the types that Grafana generates from its schema: the dashboard, and the options
// and custom fields of the two plugins that it uses. tests/grafana/check appends the dashboard; tsc does the rest.

import type { Dashboard, FieldConfig, Panel, RowPanel } from "@grafana/schema";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type {
  FieldConfig as SeriesFields,
  Options as SeriesOptions,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

/** JSON has the text of an enum's member, never the member. */
type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

/** Every panel has these; its type decides what its options and its custom fields are. */
type Described = Omit<Panel, "type" | "options" | "fieldConfig"> & Required<Pick<Panel, "title" | "description" | "gridPos">>;
type Fields<Custom> = { defaults: Omit<FieldConfig, "custom"> & { unit: string } & Custom; overrides: [] };
type Stat = Described & { type: "stat"; options: StatOptions; fieldConfig: Fields<{}> };
type Series = Described & { type: "timeseries"; options: SeriesOptions; fieldConfig: Fields<{ custom: SeriesFields }> };

type Checked = Json<Omit<Dashboard, "panels"> & { panels: (RowPanel | Stat | Series)[] }>;

