/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SPLITQ_H
#define SPLITQ_H

struct dentry;
struct folio;

void splitq_pause_init(struct dentry *dir);
void splitq_pause_exit(void);

void splitq_folio_init(struct dentry *dir);
const char *splitq_list_state(struct folio *folio);

void splitq_audit_init(struct dentry *dir);

void splitq_jitter_init(struct dentry *dir);
void splitq_jitter_exit(void);

#endif
